;; MurmurHash3 x86_128 with seed 0, after Austin Appleby's public domain description. `node scripts/wasm.mjs` turns
;; this into murmur-code.ts. Why not in TypeScript: docs/decisions/set-hash.md.
;;
;; Memory: the hash (four lanes of 32 bits) at 0, the state of what was absorbed so far at 16, the data from 32 on.
(module
  (memory (export "memory") 2)

  (func $mix (param $k i32) (param $c1 i32) (param $bits i32) (param $c2 i32) (result i32)
    (i32.mul
      (i32.rotl (i32.mul (local.get $k) (local.get $c1)) (local.get $bits))
      (local.get $c2)))

  ;; (rotl(h, bits) + next) * 5 + c
  (func $spread (param $h i32) (result i32)
    (local.set $h (i32.mul (i32.xor (local.get $h) (i32.shr_u (local.get $h) (i32.const 16))) (i32.const 0x85ebca6b)))
    (local.set $h (i32.mul (i32.xor (local.get $h) (i32.shr_u (local.get $h) (i32.const 13))) (i32.const 0xc2b2ae35)))
    (i32.xor (local.get $h) (i32.shr_u (local.get $h) (i32.const 16))))

  ;; Takes in the first `length` bytes of the data, a multiple of 16. Written out: the runtime does not inline what the
  ;; loop would call, and calls take four fifths of the time then.
  (func $absorb (export "absorb") (param $length i32)
    (local $h1 i32) (local $h2 i32) (local $h3 i32) (local $h4 i32) (local $at i32) (local $end i32)
    (local.set $h1 (i32.load (i32.const 16)))
    (local.set $h2 (i32.load (i32.const 20)))
    (local.set $h3 (i32.load (i32.const 24)))
    (local.set $h4 (i32.load (i32.const 28)))
    (local.set $at (i32.const 32))
    (local.set $end (i32.add (i32.const 32) (local.get $length)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $h1 (i32.xor (local.get $h1) (i32.mul
          (i32.rotl (i32.mul (i32.load (local.get $at)) (i32.const 0x239b961b)) (i32.const 15))
          (i32.const 0xab0e9789))))
        (local.set $h1 (i32.add (i32.rotl (local.get $h1) (i32.const 19)) (local.get $h2)))
        (local.set $h1 (i32.add (i32.mul (local.get $h1) (i32.const 5)) (i32.const 0x561ccd1b)))
        (local.set $h2 (i32.xor (local.get $h2) (i32.mul
          (i32.rotl (i32.mul (i32.load offset=4 (local.get $at)) (i32.const 0xab0e9789)) (i32.const 16))
          (i32.const 0x38b34ae5))))
        (local.set $h2 (i32.add (i32.rotl (local.get $h2) (i32.const 17)) (local.get $h3)))
        (local.set $h2 (i32.add (i32.mul (local.get $h2) (i32.const 5)) (i32.const 0x0bcaa747)))
        (local.set $h3 (i32.xor (local.get $h3) (i32.mul
          (i32.rotl (i32.mul (i32.load offset=8 (local.get $at)) (i32.const 0x38b34ae5)) (i32.const 17))
          (i32.const 0xa1e38b93))))
        (local.set $h3 (i32.add (i32.rotl (local.get $h3) (i32.const 15)) (local.get $h4)))
        (local.set $h3 (i32.add (i32.mul (local.get $h3) (i32.const 5)) (i32.const 0x96cd1c35)))
        (local.set $h4 (i32.xor (local.get $h4) (i32.mul
          (i32.rotl (i32.mul (i32.load offset=12 (local.get $at)) (i32.const 0xa1e38b93)) (i32.const 18))
          (i32.const 0x239b961b))))
        (local.set $h4 (i32.add (i32.rotl (local.get $h4) (i32.const 13)) (local.get $h1)))
        (local.set $h4 (i32.add (i32.mul (local.get $h4) (i32.const 5)) (i32.const 0x32ac3b17)))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br $next)))
    (i32.store (i32.const 16) (local.get $h1))
    (i32.store (i32.const 20) (local.get $h2))
    (i32.store (i32.const 24) (local.get $h3))
    (i32.store (i32.const 28) (local.get $h4)))

  ;; Takes in the last `length` bytes, writes the hash of all `total` bytes, and is ready for the next.
  (func (export "finish") (param $length i32) (param $total i32)
    (local $h1 i32) (local $h2 i32) (local $h3 i32) (local $h4 i32) (local $at i32)
    (local.set $at (i32.add (i32.const 32) (local.get $length)))
    ;; Zeros behind the end: the rest is read in whole words.
    (i64.store (local.get $at) (i64.const 0))
    (i64.store offset=8 (local.get $at) (i64.const 0))
    (local.set $at (i32.and (local.get $length) (i32.const -16)))
    (call $absorb (local.get $at))
    (local.set $at (i32.add (i32.const 32) (local.get $at)))
    (local.set $h1 (i32.xor (local.get $total) (i32.xor (i32.load (i32.const 16))
      (call $mix (i32.load (local.get $at)) (i32.const 0x239b961b) (i32.const 15) (i32.const 0xab0e9789)))))
    (local.set $h2 (i32.xor (local.get $total) (i32.xor (i32.load (i32.const 20))
      (call $mix (i32.load offset=4 (local.get $at)) (i32.const 0xab0e9789) (i32.const 16) (i32.const 0x38b34ae5)))))
    (local.set $h3 (i32.xor (local.get $total) (i32.xor (i32.load (i32.const 24))
      (call $mix (i32.load offset=8 (local.get $at)) (i32.const 0x38b34ae5) (i32.const 17) (i32.const 0xa1e38b93)))))
    (local.set $h4 (i32.xor (local.get $total) (i32.xor (i32.load (i32.const 28))
      (call $mix (i32.load offset=12 (local.get $at)) (i32.const 0xa1e38b93) (i32.const 18) (i32.const 0x239b961b)))))
    (local.set $h1 (i32.add (i32.add (local.get $h1) (local.get $h2)) (i32.add (local.get $h3) (local.get $h4))))
    (local.set $h2 (call $spread (i32.add (local.get $h2) (local.get $h1))))
    (local.set $h3 (call $spread (i32.add (local.get $h3) (local.get $h1))))
    (local.set $h4 (call $spread (i32.add (local.get $h4) (local.get $h1))))
    (local.set $h1 (call $spread (local.get $h1)))
    (local.set $h1 (i32.add (i32.add (local.get $h1) (local.get $h2)) (i32.add (local.get $h3) (local.get $h4))))
    (i32.store (i32.const 0) (local.get $h1))
    (i32.store (i32.const 4) (i32.add (local.get $h2) (local.get $h1)))
    (i32.store (i32.const 8) (i32.add (local.get $h3) (local.get $h1)))
    (i32.store (i32.const 12) (i32.add (local.get $h4) (local.get $h1)))
    (i64.store (i32.const 16) (i64.const 0))
    (i64.store (i32.const 24) (i64.const 0))))
