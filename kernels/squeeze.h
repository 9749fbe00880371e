// Eight entries at a time, those that are wanted are brought together. For x86-64 processors with AVX2.
#pragma once
#define SQUEEZED 8

// For each set of eight entries, as bits: the places of its members, followed by zeros.
struct Places {
    unsigned char of[256][8];

    constexpr Places() : of()
    {
        for (int set = 0; set < 256; ++set)
            for (int place = 0, members = 0; place < 8; ++place)
                if (set >> place & 1) of[set][members++] = place;
    }
};
constexpr Places PLACES;

// Writes those of eight entries whose key exceeds `low`, and their indices, of which the first is `j`. Returns how many
// these are; eight are written anyway.
__forceinline__ long squeeze(const float* entries, unsigned low, long j, float* values, unsigned* indices)
{
    const __m256 z = _mm256_loadu_ps(entries);
    const __m256i key = _mm256_and_si256(_mm256_castps_si256(z), _mm256_set1_epi32(0x7fffffff));
    const __m256i wanted = _mm256_cmpgt_epi32(key, _mm256_set1_epi32(low));  // neither has its top bit set
    const int set = _mm256_movemask_ps(_mm256_castsi256_ps(wanted));
    const __m256i places = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)PLACES.of[set]));
    _mm256_storeu_ps(values, _mm256_permutevar8x32_ps(z, places));
    _mm256_storeu_si256((__m256i*)indices, _mm256_add_epi32(places, _mm256_set1_epi32(j)));
    return __builtin_popcount(set);
}
