"""From a request to a stream of events: preparing media, running the encoders, prefill and decode."""
