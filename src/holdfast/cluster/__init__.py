"""All of the scaled-out shape on the loopback of one machine."""
