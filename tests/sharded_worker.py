"""`tests.fit_worker` in which accelerate shards models on the CPU too, as it does on GPUs.

    python -m tests.sharded_worker OUT CONFIG '{"set": ["fsdp=true"]}'

accelerate takes FSDP where a group of processes is one of GPUs; that of CPUs is told to it as one
of XPUs here. The exchange itself is torch's own, by gloo, and so it is under DeepSpeed.
"""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from tests import fit_worker

_plain = PartialState.__init__


def _as_of_devices(self, *arguments, **named):
    _plain(self, *arguments, **named)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_XPU


if __name__ == "__main__":
    if "deepspeed=" in sys.argv[3]:
        import deepspeed

        deepspeed.init_distributed("gloo")
    else:
        PartialState.__init__ = _as_of_devices
    fit_worker.main(*sys.argv[1:])
