"""Answer a file of requests or a folder of media, with results that survive a kill."""
