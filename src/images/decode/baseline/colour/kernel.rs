//! A row with vector instructions, for vectors of any length.
//!
//! The conversion's steps are those of libjpeg-turbo's jdcolext-avx2.asm. There are no closures:
//! what calls them has not the instructions, and would not be inlined.

/// Defines `write_row` with the instructions that the caller has named.
macro_rules! write_row {
    ($features:literal, $vector:ty) => {
        /// Bytes of a vector.
        const WIDTH: usize = size_of::<$vector>();

        type Window = [u8; WIDTH / 2 + 2];

        #[target_feature(enable = $features)]
        fn write_row(row: &Row<'_>, out: &mut [u8]) {
            let mut x = 0;
            for out in out.chunks_mut(3 * WIDTH) {
                let pixels = pixels(row, x);
                if let Some(out) = out.first_chunk_mut() {
                    store(pixels, out);
                } else {
                    let mut last = [0; 3 * WIDTH];
                    store(pixels, &mut last);
                    out.copy_from_slice(&last[..out.len()]);
                }
                x += WIDTH;
            }
        }

        /// Red, green and blue of a vector's pixels.
        #[target_feature(enable = $features)]
        #[inline]
        fn pixels(row: &Row<'_>, x: usize) -> [$vector; 3] {
            let y = load(&row.luma[x..]);
            let [cb, cr] = match row.sampling {
                Sampling::Gray => return [y; 3],
                Sampling::Full => {
                    let [cb, cr] = &row.chroma;
                    [load(&cb.near[1 + x..]), load(&cr.near[1 + x..])]
                }
                Sampling::Across => {
                    let [cb, cr] = &row.chroma;
                    [across(cb, x / 2), across(cr, x / 2)]
                }
                Sampling::Down => {
                    let ([cb, cr], bias) = (&row.chroma, set1_16(row.bias()));
                    [down(cb, 1 + x, bias), down(cr, 1 + x, bias)]
                }
                Sampling::Both => {
                    let [cb, cr] = &row.chroma;
                    [both(cb, x / 2), both(cr, x / 2)]
                }
            };
            rgb(y, cb, cr)
        }

        /// Pairs of pixels from the sample that each pair is in and those beside it.
        #[target_feature(enable = $features)]
        #[inline]
        fn across(chroma: &Chroma<'_>, at: usize) -> $vector {
            let near = window(&chroma.near[at..]);
            let [before, this, after] = [widen(near, 0), widen(near, 1), widen(near, 2)];
            let this = add16(this, add16(this, this));
            let even = srli16::<2>(add16(add16(this, before), set1_16(1)));
            let odd = srli16::<2>(add16(add16(this, after), set1_16(2)));
            or(even, slli16::<8>(odd))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn both(chroma: &Chroma<'_>, at: usize) -> $vector {
            let (near, far) = (window(&chroma.near[at..]), window(&chroma.far[at..]));
            let [before, this, after] =
                [column(near, far, 0), column(near, far, 1), column(near, far, 2)];
            let this = add16(this, add16(this, this));
            let even = srli16::<4>(add16(add16(this, before), set1_16(8)));
            let odd = srli16::<4>(add16(add16(this, after), set1_16(7)));
            or(even, slli16::<8>(odd))
        }

        /// The samples for a vector of pairs of pixels, and those beside them.
        fn window(samples: &[u8]) -> &Window {
            samples.first_chunk().expect("a row has `OVERREAD` samples more")
        }

        /// Four times the samples between two rows.
        #[target_feature(enable = $features)]
        #[inline]
        fn column(near: &Window, far: &Window, offset: usize) -> $vector {
            sum(widen(near, offset), widen(far, offset))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn sum(near: $vector, far: $vector) -> $vector {
            add16(add16(near, far), add16(near, near))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn down(chroma: &Chroma<'_>, at: usize, bias: $vector) -> $vector {
            let (near, far) = (load(&chroma.near[at..]), load(&chroma.far[at..]));
            let low = add16(sum(low(near), low(far)), bias);
            let high = add16(sum(high(near), high(far)), bias);
            packus16(srli16::<2>(low), srli16::<2>(high))
        }

        /// Half of the bytes in 16 bits; `packus16` puts them together with the others.
        #[target_feature(enable = $features)]
        #[inline]
        fn low(bytes: $vector) -> $vector {
            unpacklo8(bytes, zero())
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn high(bytes: $vector) -> $vector {
            unpackhi8(bytes, zero())
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn rgb(y: $vector, cb: $vector, cr: $vector) -> [$vector; 3] {
            let [red0, green0, blue0] = rgb16(low(y), low(cb), low(cr));
            let [red1, green1, blue1] = rgb16(high(y), high(cb), high(cr));
            [packus16(red0, red1), packus16(green0, green1), packus16(blue0, blue1)]
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn rgb16(y: $vector, cb: $vector, cr: $vector) -> [$vector; 3] {
            let (cb, cr) = (sub16(cb, set1_16(128)), sub16(cr, set1_16(128)));
            let factors = set1_32((i32::from(CR_GREEN) << 16) | (i32::from(CB_GREEN) & 0xffff));
            let half = set1_32(1 << 15);
            let low = add32(madd16(unpacklo16(cb, cr), factors), half);
            let high = add32(madd16(unpackhi16(cb, cr), factors), half);
            let green = sub16(pack32(srai32::<16>(low), srai32::<16>(high)), cr);
            let red = add16(cr, scale(cr, CR_RED));
            let blue = add16(add16(cb, cb), scale(cb, CB_BLUE));
            [add16(y, red), add16(y, green), add16(y, blue)]
        }

        /// `(c * factor + (1 << 15)) >> 16`
        #[target_feature(enable = $features)]
        #[inline]
        fn scale(c: $vector, factor: i16) -> $vector {
            srai16::<1>(add16(mulhi16(add16(c, c), set1_16(factor)), set1_16(1)))
        }
    };
}

pub(super) use write_row;
