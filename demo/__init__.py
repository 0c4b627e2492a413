"""What `devroute demo` runs with (devroute/mesh/demo): installed as the package devroute.demo_files."""
