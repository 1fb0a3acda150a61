"""A WhatsApp broker and its customers over real HTTP: for the demo, for tests and for load.

It speaks spec/broker.md sections 1 to 6, quirks included, keeps everything in memory (sessions may survive in
a state file) and never imports Django or any other part of the product.
"""
