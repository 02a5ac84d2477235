"""What the dashboards show: one file a dashboard."""

from . import gpus, job, overview, queues, sites

DASHBOARDS = [module.DASHBOARD for module in (overview, job, sites, queues, gpus)]
