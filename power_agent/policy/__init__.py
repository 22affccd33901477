"""May this call run? Verdicts, patterns, rules, and what is shown to the person who is asked."""

from power_agent.policy.manners import own_rules
from power_agent.policy.verdicts import Allow, Ask, Change, Deny, GuardVerdict, Policy, Refuse, Verdict, Wanted, allow_all

__all__ = ["Allow", "Ask", "Change", "Deny", "GuardVerdict", "Policy", "Refuse", "Verdict", "Wanted", "allow_all", "own_rules"]
