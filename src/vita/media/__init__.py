"""From files, URLs, bytes and arrays to pixels and PCM. Limits are checked before anything is decoded."""
