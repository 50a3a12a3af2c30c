"""Several server processes behind one address: sticky routing, retries, replayed streams, restarts."""
