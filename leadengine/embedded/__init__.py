"""What `manage.py up` and `manage.py test` run on: PostgreSQL and Valkey from wheels, and the supervision of processes.

Nothing here imports the product: its parts are started by the names of their commands.
"""
