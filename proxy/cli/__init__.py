"""The command line: `root` knows every verb, each module here one family of them.

Rule: results go to standard output, everything else to standard error; when no daemon
answers, verbs that read use the queue file and say so, verbs that change something end
with 69; each exit code means one thing (`exits`).
Non-rule: no decision about hits.  Heavy modules are imported by the verb that needs them,
so that `--help` stays quick.
Source: clig.dev; sysexits(3).
"""
