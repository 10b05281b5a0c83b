# a resume in the middle of a window does not record
/^void checkpoint_load(/,/^}/ s~model->recording = meta_int(f, "recording", 0, 1);~~
