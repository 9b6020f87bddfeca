;; A Roadrunner function by hand: inverts the colours of a raw picture in the buffer that it came in.
;;
;; It is written against the ABI in roadrunner-guest's README and uses neither that crate nor WASI. Read it from top to
;; bottom: what is imported, the memory, the allocator that the host puts payloads in, the handler. To try it, turn it into
;; a module with `wat2wasm invert.wat` or `wasm-tools parse invert.wat -o invert.wasm`; WasmEdge wants the binary form.

(module
  ;; -- Imports ---------------------------------------------------------------------------------------------------------
  ;; All of the host's functions are optional. This one needs a single one, to say why it failed: (address, length).
  (import "roadrunner" "fail" (func $fail (param i32 i32) (result i32)))

  ;; -- Memory ----------------------------------------------------------------------------------------------------------
  ;; One page (64 KiB) to start with; the allocator grows it. The texts lie at its beginning, buffers from 1024 on. No
  ;; buffer has the address 0, which the ABI keeps for "none".
  (memory (export "memory") 1)
  (global $heap i32 (i32.const 1024))

  (data (i32.const 16) "not a raw picture: the header is missing or wrong")                          ;; 49 bytes
  (data (i32.const 128) "a raw picture that is shorter or longer than its header says")              ;; 60 bytes

  ;; -- Allocator -------------------------------------------------------------------------------------------------------
  ;; Buffers are put one behind the other. When the last one has been freed, it starts again from the beginning of the
  ;; heap. That suits a function that handles one payload at a time, and is as small as an allocator can be.
  (global $top (mut i32) (i32.const 1024))  ;; the first free byte
  (global $live (mut i32) (i32.const 0))    ;; how many buffers are in use

  (func $allocate (export "roadrunner_allocate") (param $len i32) (param $align i32) (result i32)
    (local $start i64)  ;; addresses as 64-bit numbers, so that no sum overflows
    (local $end i64)

    ;; Only powers of two up to 2 MiB: they have one bit, so x & (x - 1) is 0. (0 has none; it is refused with them.)
    (if (i32.or
          (i32.or
            (i32.eqz (local.get $align))
            (i32.gt_u (local.get $align) (i32.const 0x200000)))
          (i32.and (local.get $align) (i32.sub (local.get $align) (i32.const 1))))
      (then (return (i32.const 0))))

    ;; From 1 MiB on at a multiple of 2 MiB, so that the host can hand over whole pages instead of copying; else of 16 at
    ;; least.
    (if (i32.ge_u (local.get $len) (i32.const 0x100000))
      (then (local.set $align (i32.const 0x200000)))
      (else
        (if (i32.lt_u (local.get $align) (i32.const 16))
          (then (local.set $align (i32.const 16))))))

    ;; start = (top + align - 1) & -align
    (local.set $start
      (i64.and
        (i64.add
          (i64.extend_i32_u (global.get $top))
          (i64.extend_i32_u (i32.sub (local.get $align) (i32.const 1))))
        (i64.extend_i32_s (i32.sub (i32.const 0) (local.get $align)))))

    ;; end = start + max(len, 1): an empty buffer takes a byte too, to have an address of its own.
    (local.set $end
      (i64.add
        (local.get $start)
        (i64.extend_i32_u
          (select (local.get $len) (i32.const 1) (local.get $len)))))

    ;; $top has 32 bits, which also keeps the end of the last buffer below 4 GiB.
    (if (i64.gt_u (local.get $end) (i64.const 0xffffffff))
      (then (return (i32.const 0))))

    ;; Grow if the end lies beyond the memory. memory.grow returns -1 if the host does not allow it.
    (if (i64.gt_u
          (local.get $end)
          (i64.shl (i64.extend_i32_u (memory.size)) (i64.const 16)))
      (then
        (if (i32.eq
              (memory.grow
                (i32.sub
                  (i32.wrap_i64
                    (i64.shr_u (i64.add (local.get $end) (i64.const 0xffff)) (i64.const 16)))
                  (memory.size)))
              (i32.const -1))
          (then (return (i32.const 0))))))

    (global.set $top (i32.wrap_i64 (local.get $end)))
    (global.set $live (i32.add (global.get $live) (i32.const 1)))
    (i32.wrap_i64 (local.get $start)))

  (func $free (export "roadrunner_free") (param $ptr i32)
    ;; More frees than allocations are an error of the host, at which a function may trap.
    (if (i32.eqz (global.get $live))
      (then (unreachable)))
    (global.set $live (i32.sub (global.get $live) (i32.const 1)))
    (if (i32.eqz (global.get $live))
      (then (global.set $top (global.get $heap)))))

  ;; -- Handler ---------------------------------------------------------------------------------------------------------
  ;; The picture's layout: the 8 bytes "RAWRGBA1", width and height as little-endian 32-bit numbers, 48 zero bytes, then 4
  ;; bytes for each pixel: red, green, blue, alpha.
  ;;
  ;; The buffer at $ptr is ours now: it is either the reply, which the host frees, or we free it.
  (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
    (local $pixels i64)
    (local $at i32)
    (local $end i32)

    ;; A header must be there before any of it is read.
    (if (i32.lt_u (local.get $len) (i32.const 64))
      (then (return (call $refuse (local.get $ptr) (i32.const 16) (i32.const 49)))))

    ;; "RAWRGBA1" as a little-endian number.
    (if (i64.ne (i64.load (local.get $ptr)) (i64.const 0x3141424752574152))
      (then (return (call $refuse (local.get $ptr) (i32.const 16) (i32.const 49)))))

    ;; The 48 bytes from 16 on are zero: all of them or-ed together are.
    (if (i64.ne
          (i64.or
            (i64.or
              (i64.or (i64.load offset=16 (local.get $ptr)) (i64.load offset=24 (local.get $ptr)))
              (i64.or (i64.load offset=32 (local.get $ptr)) (i64.load offset=40 (local.get $ptr))))
            (i64.or (i64.load offset=48 (local.get $ptr)) (i64.load offset=56 (local.get $ptr))))
          (i64.const 0))
      (then (return (call $refuse (local.get $ptr) (i32.const 16) (i32.const 49)))))

    ;; width * height. Two 32-bit numbers multiply to 64 bits, so this cannot overflow. From 1 to 2^27 pixels are allowed;
    ;; subtracting 1 first makes of 0 the largest number.
    (local.set $pixels
      (i64.mul
        (i64.load32_u offset=8 (local.get $ptr))
        (i64.load32_u offset=12 (local.get $ptr))))
    (if (i64.ge_u (i64.sub (local.get $pixels) (i64.const 1)) (i64.const 0x8000000))
      (then (return (call $refuse (local.get $ptr) (i32.const 16) (i32.const 49)))))

    ;; The payload ends with the last pixel.
    (if (i64.ne
          (i64.add (i64.shl (local.get $pixels) (i64.const 2)) (i64.const 64))
          (i64.extend_i32_u (local.get $len)))
      (then (return (call $refuse (local.get $ptr) (i32.const 128) (i32.const 60)))))

    ;; Pixel by pixel. Read as a little-endian number, red is the lowest byte and alpha the highest, so this flips every
    ;; bit of the three colours.
    (local.set $at (i32.add (local.get $ptr) (i32.const 64)))
    (local.set $end (i32.add (local.get $ptr) (local.get $len)))
    (loop $next
      (i32.store
        (local.get $at)
        (i32.xor (i32.load (local.get $at)) (i32.const 0x00ffffff)))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (br_if $next (i32.ne (local.get $at) (local.get $end))))

    ;; The reply is the buffer that came in: ptr << 32 | len, unsigned.
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $ptr)) (i64.const 32))
      (i64.extend_i32_u (local.get $len))))

  ;; Tells the host why, frees the payload and gives the result for "failed".
  (func $refuse (param $ptr i32) (param $text i32) (param $text_len i32) (result i64)
    (drop (call $fail (local.get $text) (local.get $text_len)))
    (call $free (local.get $ptr))
    (i64.const -1)))
