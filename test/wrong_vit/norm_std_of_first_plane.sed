# all planes are divided by the first one's deviation
/^__device__ inline float view_pixel(/,/^}/ s~of_plane(norm\.std, plane)~of_plane(norm.std, 0)~
