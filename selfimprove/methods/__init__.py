"""The methods, one file or folder each: a plain function over the durable steps of a `Loop`."""
