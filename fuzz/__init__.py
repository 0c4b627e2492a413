"""`make fuzz`: bytes that nobody wrote, for every parser that reads what a stranger sends.

targets.py      what has to hold for any bytes, one function for each parser
seeds.py        where to start: the tables of tests/conformance, dialogues of the tunnel
mutate.py       the driver for machines without atheris
worker.py       one target for some seconds, with bounds on time and memory
__main__.py     one worker after the other, and the figures at the end
"""
