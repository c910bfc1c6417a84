"""What kernel and command-line tests stand on: a small private network and the real program."""
