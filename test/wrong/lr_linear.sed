# the decay is linear
/^float learning_rate(/,/^}/ s~0\.5f \* (1\.0f + cosf(3\.14159265f \* (~(1.0f - ((~
