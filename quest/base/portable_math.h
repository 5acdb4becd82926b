// exp, ln, powers, sine and cosine whose bits depend on nothing: no library, CPU or compiler
// option.
//
// The C library's functions have several variants, chosen by its version and by whether the CPU has
// fused multiply-adds; results that decide a bit or a token (rotary tables, sampling, first
// weights) therefore use these. They are made of + - * / and integer operations in double, rounded
// to nearest, in the order that portable_math.cpp and portable_exp.h state; this room is compiled
// without contraction. Bounds are in units in the last place (ulp) of a double, and tested against
// long double (portable_math_test.cpp).
//
// Pure functions, safe from any thread. Outside their domain they assert, or give NaN for NaN.
#pragma once

namespace quest::portable {

// e^x within 1 ulp; subnormal results within one unit of their own; 0 below -745.2, infinity
// above 709.8.
double exp(double x);

// ln x of finite x > 0, within 3 ulp.
double log(double x);

// x^y of finite x > 0 and finite y: the true value rounded once, but for cases nearer than 2^-40
// ulp to the middle of two numbers. Slow (some microseconds): double-double arithmetic.
double pow(double x, double y);

// Within 1 ulp, also beside their zeros. |x| <= 2^32 radians.
struct SinCos {
  double sin, cos;
};
SinCos sin_cos(double x);

}  // namespace quest::portable
