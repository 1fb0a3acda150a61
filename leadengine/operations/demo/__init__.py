"""The demo tenant that `manage.py up` makes: people, queues, lines, customers, and what happened before."""

from leadengine.operations.demo.seed import DemoPeople, seed_demo

__all__ = ["DemoPeople", "seed_demo"]
