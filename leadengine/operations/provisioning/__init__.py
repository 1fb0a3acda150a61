"""Tenants with their people, queues, lines and keys, from one file (spec/run.md section 3)."""

from leadengine.operations.provisioning.apply import provision_tenants
from leadengine.operations.provisioning.file import ProvisionFile, UnableToProvision, read_file

__all__ = ["ProvisionFile", "UnableToProvision", "provision_tenants", "read_file"]
