"""Epsilons of Google's dp-accounting, with which the accountant of Rounds is compared.

privacy.py    Prints rows of noise multiplier, rounds, delta and epsilon: the table of
              workers/nnunet/src/privacy/accountant.rs. Needs `pip install dp-accounting`; 0.6.0 made it. Its orders
              are many here: its default ones, from 1.1 to 1024, give up to 5 % more at the ends.
"""

from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant

ORDERS = [1 + 10 ** (power / 200) for power in range(-398, 1200)]

for noise in (0.3, 0.5, 1.0, 2.0, 4.0, 10.0, 30.0, 100.0):
    for rounds, delta in ((1, 1e-5), (10, 1e-3), (50, 1e-5), (50, 1e-8), (1000, 1e-5)):
        accountant = RdpAccountant(ORDERS)
        accountant.compose(SelfComposedDpEvent(GaussianDpEvent(noise), rounds))
        print(f"({noise}, {rounds}, {delta:.0e}, {accountant.get_epsilon(delta):.6}),")
