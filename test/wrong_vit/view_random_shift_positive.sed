# moves to one side only
/^View view_random(/,/^}/ s~v\.dx = (int)(random_u32(rng) % (unsigned)(2 \* s->crop + 1)) - s->crop~v.dx = (int)(random_u32(rng) % (unsigned)(2 * s->crop + 1))~
