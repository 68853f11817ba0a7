"""Ray and Optuna: the search over SpeaQ hyper-parameters. Nothing under `speaq/` imports them."""
