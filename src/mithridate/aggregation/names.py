"""Rules, pre-aggregators and row adversaries by name, found by reading their files, without torch."""

from mithridate.core.registry import Registry

RULES = Registry("mithridate.aggregation", "aggregation rule", "mithridate.aggregators")
PRE_AGGREGATORS = Registry("mithridate.aggregation.pre", "pre-aggregator", "mithridate.pre_aggregators")
ADVERSARIES = Registry("mithridate.aggregation.adversaries", "row adversary", "mithridate.adversaries")
