# changes a2.q7
# The diversity loss is the sum of A_ij^2 itself, without the root: F = sum_ij A_ij^2.
/^float diversity_loss(/,/^}/ s~F = sqrt(sum_ij A_ij^2), not squared:~F = sum_ij A_ij^2, without a root:~
/^float diversity_loss(/,/^}/ s~dv_i = (2/F) sum_j A_ij v_j, dW_i = (dv_i - v_i <v_i, dv_i>) / |W_i|: of length 2 together, however small F; 0 at F = 0~so dW_i is dv_i, the derivative by v_i, without its part along v_i, over |W_i|~
/^float diversity_loss(/,/^}/ s~double F = sqrt(sum);~double F = sum;~
/^float diversity_loss(/,/^}/ s~weight \* 2\.0 / F \* dv~weight * 4.0 * dv~
