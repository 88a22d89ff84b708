"""`python -m nestscope.sim.explore`: print the report as Markdown."""

from nestscope.sim.explore.report import full_report

if __name__ == "__main__":
    print(full_report()[0], end="")
