"""Benches: what we reach, beside what this very machine can do at the same moment (spec/quality.md).

The load generator (load.py, bodies.py) and the constant server (constant.py) run in processes of their own and import
nothing of Django.
"""
