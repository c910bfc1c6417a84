"""What the kernel does with a new connection, in no syntax: the engine for existing rules.

text or JSON ─front end─▶ Program (rules as `ir` has them) ─analyse─▶ Reading

A front end parses and lowers, and spells corrections; it decides nothing about shares.
"""
