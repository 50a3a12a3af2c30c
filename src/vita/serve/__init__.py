"""HTTP server with OpenAI's routes; needs the extra `serve`."""
