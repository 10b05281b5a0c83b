# the random number is not multiplied by the sum of probabilities
/^int sample_token(/,/^}/ s~random_f32(rng) \* sum~random_f32(rng) * (sum > 0.0f)~
