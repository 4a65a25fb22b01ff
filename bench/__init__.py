"""How fast, as ratios measured in one run: `python -m bench.<name>`, each with `--help`.

Rule: machines are noisy, so what is compared is interleaved in one run, several rounds,
and reported as medians with minimum and maximum; CPU time a hit stands beside every rate.
Non-rule: nothing here passes or fails on a time; CI only runs each with `--smoke`.
Source: docs/performance.md holds the figures and the command behind each.
"""
