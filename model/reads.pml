/* Strict reads: nobody reads from a deposed primary after a newer one acknowledged (L3).
 *
 * Discrete time, one unit is 0.4 s: T_fence 4, L 5, the kill (0.2 s) counted as 1. The holder A of epoch 1, its voters B and C (k = 1); one
 * election, of B. Messages take any time, or get lost; a clock never goes back. Rates of clocks are not modelled:
 * what L is above T_fence + kill is the reserve for them.
 */
#ifndef T_FENCE
#define T_FENCE 4	/* decide/election.py: 1.6 s */
#endif
#ifndef KILL
#define KILL 1		/* the supervisor's kill */
#endif
#ifndef LEASE
#define LEASE 5	/* 2.0 s */
#endif
#define SUSPECT 2		/* earlier than the code's 1.0 s */
#ifndef END
#define END 13		/* units in all */
#endif
#define V 2		/* voters: 0 is B, 1 is C */

byte now = 1;
bit alive = 1;		/* A's PostgreSQL runs, and serves who is connected */
bit said = 0;		/* A said "fenced": nothing of it runs */
bit apiA = 1;		/* A reaches the API server */
byte renewed = 1;	/* A: when the last successful renewal was sent */
byte ackd[V] = 1;	/* A: when the newest beat was sent that this voter granted */
byte beat[V];		/* on its way: when it was sent; 0 none */
byte grant[V];		/* the answer on its way: when its beat was sent */
byte until[V];		/* the voter's peer lease ends */
byte promised[V];
byte seen = 1;		/* B: when it last saw the renew time move */
byte put = 0;		/* A's renewal on its way: when it was sent */
bit fresh = 0;		/* the Lease was renewed and B has not seen it yet */
bit swapped = 0;
byte door = 0;		/* B opens not before */
bit open = 0;
bit acks = 0;		/* B acknowledged a commit */

#define SUPPORT1 (ackd[0] > ackd[1] -> ackd[0] : ackd[1])
#define SUPPORT (renewed > SUPPORT1 -> renewed : SUPPORT1)
#ifdef M_DEADLINE_FROM_ANSWER
#define BASE now
#else
#define BASE grant[i]
#endif
#define SIGN(i) (until[i] - T_FENCE)
#define MAX2(a, b) ((a) > (b) -> (a) : (b))

inline send(i) { d_step { alive && beat[i] == 0 -> beat[i] = now } }
inline lose(i) { d_step { beat[i] -> beat[i] = 0 } }
inline answer(i) {	/* a voter that promised nothing above grants until T_fence from now */
	d_step { beat[i] && promised[i] == 0 && grant[i] == 0 -> grant[i] = beat[i]; beat[i] = 0; until[i] = now + T_FENCE }
}
inline answered(i) { d_step { grant[i] -> if :: BASE > ackd[i] -> ackd[i] = BASE :: else fi; grant[i] = 0 } }
inline lose_answer(i) { d_step { grant[i] -> grant[i] = 0 } }
inline promise(i) {
	d_step { promised[i] == 0 && !swapped &&
#ifndef M_PROMISE_WHILE_FRESH
			(said || now >= until[i]) &&
#endif
			(said || now >= SIGN(i) + SUSPECT) ->
		promised[i] = 1; printf("%d: %c promises\n", now, 66 + i) }
}

active proctype Holder() {
	do
	:: send(0) :: send(1) :: answered(0) :: answered(1)
	:: d_step { alive && apiA && put == 0 -> put = now }
	:: d_step { put && !swapped -> renewed = put; put = 0; fresh = 1; printf("%d: renewed\n", now) }	/* it landed, and is answered */
	:: d_step { put -> put = 0 }						/* refused, or the answer is lost */
	:: d_step { put && !swapped -> put = 0; fresh = 1 }			/* it landed, and the answer is lost */
	:: d_step { apiA -> apiA = 0 }
	:: d_step { alive && swapped && apiA -> alive = 0; printf("%d: A sees the new epoch\n", now) }
	:: d_step { alive -> alive = 0; said = 1; printf("%d: A is fenced and says so\n", now) }
	od
}
active proctype Voters() {
	do
	:: lose(0) :: lose(1) :: answer(0) :: answer(1) :: lose_answer(0) :: lose_answer(1)
	:: promise(0) :: promise(1)
	:: d_step { fresh -> seen = now; fresh = 0 }				/* the watch */
	:: d_step { promised[0] && promised[1] && !swapped ->			/* the swap: its base was read after every renewal */
		if :: fresh -> seen = now; fresh = 0 :: else fi;
		swapped = 1;
#ifdef M_DOOR_AT_ONCE
		door = now;
#elif defined(M_DOOR_WITHOUT_GRANTS)
		door = (said -> now : MAX2(now, seen + LEASE));
#elif defined(M_DOOR_WITHOUT_RENEWAL)
		door = (said -> now : MAX2(now, MAX2(SIGN(0), SIGN(1)) + LEASE));
#else
		door = (said -> now : MAX2(now, MAX2(seen, MAX2(SIGN(0), SIGN(1))) + LEASE));
#endif
		printf("%d: B swaps, door at %d\n", now, door) }
	:: d_step { swapped && !open && now >= door -> open = 1; printf("%d: B's door opens\n", now) }
	:: d_step { open && !acks -> acks = 1; printf("%d: B acknowledges\n", now) }
	od
}
active proctype Clock() {	/* nothing that must happen by an instant is later: the supervisor's kill */
	do
	:: d_step { now < END && !(alive && now >= SUPPORT + T_FENCE + KILL) -> now++ }
	:: d_step { alive && now >= SUPPORT + T_FENCE -> alive = 0; printf("%d: A's deadline\n", now) }
	:: d_step { alive && acks -> printf("%d: a client of A reads what B's commit has replaced\n", now); assert(false) }
	od
}
init { until[0] = 1 + T_FENCE; until[1] = 1 + T_FENCE }
