//! One column or row at a time.

use super::*;

/// Whether the coefficients are sane; see `Blocks::transform`.
pub fn transform(blocks: &Blocks<'_>, out: &mut [u8], stride: usize) -> bool {
    let mut sane = true;
    for lane in 0..LANES {
        let at = |row: usize, column: usize| {
            let coefficient = blocks.coefficients[row * ROW + lane * 8 + column];
            coefficient.wrapping_mul(blocks.quant[row * 8 + column])
        };
        sane &= (0..8).all(|column| is_sane(at(0, column)));
        let mut columns = [[0; 8]; 8];
        for (x, column) in columns.iter_mut().enumerate() {
            *column = line(std::array::from_fn(|y| at(y, x))).map(|sum| narrow(sum, SHIFTS[0]));
        }
        for y in 0..8 {
            let row = line(std::array::from_fn(|x| columns[x][y])).map(pixel);
            out[y * stride + lane * 8..][..8].copy_from_slice(&row);
        }
    }
    sane
}

/// The eight sums of a row or column, with 13 more fractional bits.
fn line(c: [i16; 8]) -> [i32; 8] {
    let [c0, c1, c2, c3, c4, c5, c6, c7] = c;
    let wide = i32::from;
    let sum = wide(c0.wrapping_add(c4)) << 13;
    let difference = wide(c0.wrapping_sub(c4)) << 13;
    let even3 = wide(c2) * (F_0_541 + F_0_765) + wide(c6) * F_0_541;
    let even2 = wide(c2) * F_0_541 + wide(c6) * (F_0_541 - F_1_847);
    let even = [sum + even3, difference + even2, difference - even2, sum - even3];

    let (z3, z4) = (wide(c7.wrapping_add(c3)), wide(c5.wrapping_add(c1)));
    let z5 = (z3 * (F_1_175 - F_1_961) + z4 * F_1_175, z3 * F_1_175 + z4 * (F_1_175 - F_0_390));
    let odd = [
        wide(c7) * -F_0_899 + wide(c1) * (F_1_501 - F_0_899) + z5.1,
        wide(c5) * -F_2_562 + wide(c3) * (F_3_072 - F_2_562) + z5.0,
        wide(c5) * (F_2_053 - F_2_562) + wide(c3) * -F_2_562 + z5.1,
        wide(c7) * (F_0_298 - F_0_899) + wide(c1) * -F_0_899 + z5.0,
    ];
    std::array::from_fn(|index| match index {
        0..4 => even[index].wrapping_add(odd[index]),
        _ => even[7 - index].wrapping_sub(odd[7 - index]),
    })
}

/// Rounded to that many bits less, and clipped to 16.
fn narrow(sum: i32, shift: u32) -> i16 {
    let rounded = sum.wrapping_add(1 << (shift - 1)) >> shift;
    rounded.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// The pixel of a sum of the second pass.
pub fn pixel(sum: i32) -> u8 {
    (narrow(sum, SHIFTS[1]).clamp(-128, 127) + 128) as u8
}
