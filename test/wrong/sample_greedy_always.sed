# the most likely token is always taken
/^int sample_token(/,/^}/ s~random_f32(rng) \* sum~0.0f * random_f32(rng) * sum~
