"""The gateway in front of the services: an Envoy, and the configuration that Holdfast writes for it.

plan.py says what can be chosen, routes.py what goes where and on what terms; bootstrap.py puts the configuration
together from listener.py, limits.py, problems.py and clusters.py. envoy.py knows the program.
"""

from holdfast.gateway.bootstrap import configuration
from holdfast.gateway.envoy import envoy_command, envoy_program
from holdfast.gateway.plan import Address, Certificate, Plan, parse_address, parse_addresses

__all__ = [
    "Address",
    "Certificate",
    "Plan",
    "configuration",
    "envoy_command",
    "envoy_program",
    "parse_address",
    "parse_addresses",
]
