from population.errors import InputError, unknown_name


def test_the_nearest_name_is_suggested() -> None:
    error = unknown_name("model", "simclr_r81", ["supervised_r18", "simclr_r18", "byol_r18"])
    assert isinstance(error, InputError)
    assert str(error) == (
        "unknown model 'simclr_r81' (did you mean 'simclr_r18'?);"
        " allowed: byol_r18, simclr_r18, supervised_r18"
    )


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert (
        str(unknown_name("probe", "xyz", ["refit", "frozen"]))
        == "unknown probe 'xyz'; allowed: frozen, refit"
    )


def test_an_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)
