// The scale of a row from the integer sums of its codes (docs/format.md, section 4).

#include "types.cuh"

enum { TQ_PLAIN = 0, TQ_NORM = 1, TQ_UNBIASED = 2, TQ_MSE = 3 };  // RULES of tq_core.plan

// A = <v, Q> and B = <Q, Q>.
struct TqSums {
    i64 dots, squares;
};

// s / norm by the rule, K = 2**24; 0 for a zero row except under `plain`.
TQ_DEVICE double tq_scale_factor(int rule, const TqSums& sums, int dim) {
    if (rule == TQ_PLAIN) return 1.0;
    if (sums.dots <= 0) return 0.0;
    const double a = (double)sums.dots, b = (double)sums.squares;
    if (rule == TQ_MSE) return a / b;
    if (rule == TQ_NORM) return sqrt(dim * 16777216.0 / b);
    return dim * 16777216.0 / a;
}
