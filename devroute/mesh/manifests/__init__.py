"""What a platform team applies to its mesh, generated from typed values. Pure.

The output has a stable order and no timestamps, so that it can be kept in a GitOps repository.
"""
