"""Finding, naming, mapping and filling weights. Modules never open files; this package does it for them."""
