"""`make fuzz`: mutated input for every parser of untrusted bytes.

targets.py      the invariants of each parser, one function a parser
seeds.py        the initial corpus: the tables of tests/conformance, dialogues of the tunnel
mutate.py       the driver for machines without atheris
worker.py       runs one target for some seconds, with bounds on time and memory
__main__.py     runs the workers one after the other, and prints the figures
"""
