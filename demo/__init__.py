"""What `devroute demo` runs with (devroute/mesh/demo.py): installed as the package devroute.demo_files."""
