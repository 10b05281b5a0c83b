# random_f32 stays below 1/2
/^float random_f32(/ s~>> 8~>> 9~
