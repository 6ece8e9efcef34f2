//! The transform with vector instructions, for vectors of any length: each 128 bits are a row of
//! a block, so that a vector holds the same row of blocks beside each other.
//!
//! The steps are those of libjpeg-turbo's jidctint-sse2.asm. There are no closures: what calls
//! them has not the instructions, and would not be inlined.

/// Defines `transform_rows` with the instructions that the caller has named.
macro_rules! transform {
    ($features:literal, $vector:ty) => {
        /// Sums of products with pairs of numbers, of the vectors' low and high halves.
        #[target_feature(enable = $features)]
        #[inline]
        fn products(halves: [$vector; 2], a: i32, b: i32) -> [$vector; 2] {
            let pairs = set1_32((b << 16) | (a & 0xffff));
            [madd16(halves[0], pairs), madd16(halves[1], pairs)]
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn unpack(a: $vector, b: $vector) -> [$vector; 2] {
            [unpacklo16(a, b), unpackhi16(a, b)]
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn add(a: [$vector; 2], b: [$vector; 2]) -> [$vector; 2] {
            [add32(a[0], b[0]), add32(a[1], b[1])]
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn sub(a: [$vector; 2], b: [$vector; 2]) -> [$vector; 2] {
            [sub32(a[0], b[0]), sub32(a[1], b[1])]
        }

        /// One pass: along the columns, or, of transposed blocks, the rows.
        #[target_feature(enable = $features)]
        #[inline]
        fn pass<const SECOND: bool>(c: [$vector; 8]) -> [$vector; 8] {
            let [c0, c1, c2, c3, c4, c5, c6, c7] = c;
            let (sum, difference) =
                (widen::<SECOND>(add16(c0, c4)), widen::<SECOND>(sub16(c0, c4)));
            let c26 = unpack(c2, c6);
            let even3 = products(c26, F_0_541 + F_0_765, F_0_541);
            let even2 = products(c26, F_0_541, F_0_541 - F_1_847);
            let (e0, e3) = (add(sum, even3), sub(sum, even3));
            let (e1, e2) = (add(difference, even2), sub(difference, even2));

            let z34 = unpack(add16(c7, c3), add16(c5, c1));
            let z3 = products(z34, F_1_175 - F_1_961, F_1_175);
            let z4 = products(z34, F_1_175, F_1_175 - F_0_390);
            let (c71, c53) = (unpack(c7, c1), unpack(c5, c3));
            let o0 = add(products(c71, -F_0_899, F_1_501 - F_0_899), z4);
            let o1 = add(products(c53, -F_2_562, F_3_072 - F_2_562), z3);
            let o2 = add(products(c53, F_2_053 - F_2_562, -F_2_562), z4);
            let o3 = add(products(c71, F_0_298 - F_0_899, -F_0_899), z3);
            [
                narrow::<SECOND>(add(e0, o0)),
                narrow::<SECOND>(add(e1, o1)),
                narrow::<SECOND>(add(e2, o2)),
                narrow::<SECOND>(add(e3, o3)),
                narrow::<SECOND>(sub(e3, o3)),
                narrow::<SECOND>(sub(e2, o2)),
                narrow::<SECOND>(sub(e1, o1)),
                narrow::<SECOND>(sub(e0, o0)),
            ]
        }

        /// With 13 fractional bits, and what `narrow` rounds by: sums wrap, so it can come first.
        #[target_feature(enable = $features)]
        #[inline]
        fn widen<const SECOND: bool>(a: $vector) -> [$vector; 2] {
            let rounding = set1_32(1 << (SHIFTS[usize::from(SECOND)] - 1));
            let [low, high] = unpack(zero(), a);
            [add32(srai32::<3>(low), rounding), add32(srai32::<3>(high), rounding)]
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn narrow<const SECOND: bool>([low, high]: [$vector; 2]) -> $vector {
            match SECOND {
                false => pack32(srai32::<11>(low), srai32::<11>(high)),
                true => pack32(srai32::<18>(low), srai32::<18>(high)),
            }
        }

        /// Each block's rows for its columns.
        #[target_feature(enable = $features)]
        #[inline]
        fn transpose(r: [$vector; 8]) -> [$vector; 8] {
            let (a0, a1) = (unpacklo16(r[0], r[1]), unpackhi16(r[0], r[1]));
            let (a2, a3) = (unpacklo16(r[2], r[3]), unpackhi16(r[2], r[3]));
            let (a4, a5) = (unpacklo16(r[4], r[5]), unpackhi16(r[4], r[5]));
            let (a6, a7) = (unpacklo16(r[6], r[7]), unpackhi16(r[6], r[7]));
            let (b0, b1) = (unpacklo32(a0, a2), unpackhi32(a0, a2));
            let (b2, b3) = (unpacklo32(a1, a3), unpackhi32(a1, a3));
            let (b4, b5) = (unpacklo32(a4, a6), unpackhi32(a4, a6));
            let (b6, b7) = (unpacklo32(a5, a7), unpackhi32(a5, a7));
            [
                unpacklo64(b0, b4),
                unpackhi64(b0, b4),
                unpacklo64(b1, b5),
                unpackhi64(b1, b5),
                unpacklo64(b2, b6),
                unpackhi64(b2, b6),
                unpacklo64(b3, b7),
                unpackhi64(b3, b7),
            ]
        }

        /// Transposed and clipped to bytes: of each block, rows 0 and 1, rows 2 and 3, ...
        #[target_feature(enable = $features)]
        #[inline]
        fn pixels(c: [$vector; 8]) -> [$vector; 4] {
            let (a04, a15) = (pack16(c[0], c[4]), pack16(c[1], c[5]));
            let (a26, a37) = (pack16(c[2], c[6]), pack16(c[3], c[7]));
            let (b01, b45) = (unpacklo8(a04, a15), unpackhi8(a04, a15));
            let (b23, b67) = (unpacklo8(a26, a37), unpackhi8(a26, a37));
            let (low, high) = (unpacklo16(b01, b23), unpacklo16(b45, b67));
            let (low4, high4) = (unpackhi16(b01, b23), unpackhi16(b45, b67));
            let rows = [
                unpacklo32(low, high),
                unpackhi32(low, high),
                unpacklo32(low4, high4),
                unpackhi32(low4, high4),
            ];
            let middle = set1_8(-128);
            let [a, b, c, d] = rows;
            [xor(a, middle), xor(b, middle), xor(c, middle), xor(d, middle)]
        }

        /// Dequantised rows to pixels, and whether the coefficients are sane.
        #[target_feature(enable = $features)]
        #[inline]
        fn transform_rows(rows: [$vector; 8]) -> ([$vector; 4], bool) {
            let outside = max16(rows[0], sub16(set1_16(-1), rows[0]));
            let columns = pass::<false>(rows);
            (pixels(pass::<true>(transpose(columns))), !any_above(outside, SANE))
        }
    };
}

pub(super) use transform;
