# all planes are divided by the first one's deviation
/^__device__ inline float view_pixel(/,/^}/ s~norm\.std\[plane\]~norm.std[0]~
