"""The members, kind by kind: what each is started with, and what it says of itself."""
