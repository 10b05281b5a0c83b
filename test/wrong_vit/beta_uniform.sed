# lam is uniform, whatever --mixup says
/^float random_beta(/,/^}/ s~1\.0 / a), v~1.0), v~
