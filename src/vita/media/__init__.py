"""Read files, URLs, bytes and arrays into pixels and PCM."""
