"""What `devroute demo` runs with (devroute/demo.py): installed as the package devroute.demo_files."""
