"""Print a line per golden group: cases, comparisons, worst error. Exit status 1 if one is too large."""

import sys

from tests.golden import CHECKS, GOLDEN, cases


def main() -> int:
    """Run every golden case and print the table."""
    found = cases()
    if not found:
        print(f"no golden cases: {GOLDEN} is absent", file=sys.stderr)
        return 2
    groups: dict[str, list] = {}
    for case in found:
        groups.setdefault(case.group, []).append(case)
    failed = 0
    print(f"{'group':<16}{'cases':>6}{'compared':>10}{'failed':>8}  worst error, of its tolerance")
    for group, members in groups.items():
        results, bad, problems = [], 0, []
        for case in members:
            try:
                if group not in CHECKS:
                    raise AssertionError("no check is registered for this group")
                comparisons = list(CHECKS[group](case))
            except Exception as error:
                bad += 1
                problems.append(f"    {case.name}: {type(error).__name__}: {error}")
                continue
            wrong = [c for c in comparisons if not c.share <= 1]
            bad += bool(wrong)
            problems += [
                f"    {case.name}: {c.quantity} off by {c.error:.3g} (allowed {c.tolerance})" for c in wrong
            ]
            results += [(c.share, c.error, c.tolerance, c.quantity, case.name) for c in comparisons]
        share, error, tolerance, quantity, name = max(
            results, default=(float("nan"), float("nan"), "", "", "")
        )
        detail = f"{error:.1e}  {share:>4.0%} of {tolerance} ({quantity}, {name})" if error > 0 else "0"
        print(f"{group:<16}{len(members):>6}{len(results):>10}{bad:>8}  {detail}")
        print(*problems, sep="\n", end="\n" if problems else "")
        failed += bad
    print(f"{'all':<16}{len(found):>6}{'':>10}{failed:>8}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
