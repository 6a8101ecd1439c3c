"""What every optimizer must do, as one list: the tests run it over the catalogue, `optsweep optimizers check` over a file."""
