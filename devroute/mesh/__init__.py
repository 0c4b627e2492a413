"""The mesh that devroute runs in: what a platform team applies to it, and real Envoys on this machine.

Start at manifests/ (what is applied), istio/ (the patches, as istiod applies them) and preflight/ (a team's
own files, checked); or at testbed.py, a small mesh of child processes, which demo/ and the tests run.
"""
